"""People rank groups of images in the browser; their rankings become preference data to trust."""
