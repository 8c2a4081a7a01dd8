//! Fetches input roots, runs Actions in bubblewrap and uploads what they leave.
