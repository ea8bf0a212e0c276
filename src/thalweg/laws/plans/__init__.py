"""Plans: candidate schedules in the order of their predicted loss, spaces of them, and which runs to do next."""
