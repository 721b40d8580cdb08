"""
The definitions of experiences that are shipped, one TOML file each. This package is a folder of data: what the keys
mean is read by `protocol.experience`.
"""
