"""What is measured of a net and its credit, what it means, and how sure it is."""
