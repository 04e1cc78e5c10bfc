"""What several tests share: cases, small models and data, pytest plugins."""
