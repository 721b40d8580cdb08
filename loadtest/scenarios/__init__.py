"""The scenarios that come with Wayhold; each is also an example of how to write one."""
