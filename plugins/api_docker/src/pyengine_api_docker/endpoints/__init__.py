"""What each endpoint does, by area of the API."""
