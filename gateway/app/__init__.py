"""
Composition root: the one place that builds concrete things and fixes start and stop order.

Everything a user types ends in a module here (`dev`, `serve`, `settings_command` …); everything below is told what it
needs and knows nothing of environment variables, flags or processes.
"""
