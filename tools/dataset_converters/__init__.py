"""What the tools that make or check a data set do; the commands lie one folder up."""
