"""Images: what is stored of them, how they come in and go out."""
