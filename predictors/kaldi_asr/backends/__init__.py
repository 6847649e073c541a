"""One module a library. Each imports its library when it is made."""
