"""Text burned into pixels: found, held back, looked at by a person."""
