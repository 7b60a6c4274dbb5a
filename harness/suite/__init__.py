"""The suite file: schema, search space, metrics, and the code that it names."""
