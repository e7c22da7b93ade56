"""Models: built tiny or loaded, what is tuned of them, how they answer, how they are packaged and served."""
