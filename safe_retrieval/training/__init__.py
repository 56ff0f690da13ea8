"""Training of response adapters: responses, teachers, losses, kept prefixes, the loop."""
