"""The database engines: everything that opens a connection to a server."""
