"""Parts of the trainers' rounds, each measured with the components that training uses and nothing beside it."""
