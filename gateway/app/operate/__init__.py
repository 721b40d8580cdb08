"""The commands of operators: `wayhold top`, `sessions`, `kick`, … Each asks the live-ops API; the rules are there."""
