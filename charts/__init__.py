"""The Helm chart, and the tools that make files from it."""
