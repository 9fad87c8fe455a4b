"""Programs to copy from: each uses roidl as its users do."""
