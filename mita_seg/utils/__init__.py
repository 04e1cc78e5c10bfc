"""What several parts share: files, tables, colours, the command line of the tools."""
