"""What the experts of a trained model do: how they are used, and testing with other m and k."""
