"""Small real training on the data that is on board: it uses the rest of the library one way and may be deleted.

data         text read from the running Python, scikit-learn's digits
models       MLP, GPT
loop         a training loop with run folders, resumable bit for bit
small_runs   the bundled table of small runs, and the command that makes it
"""
