"""What both models answer, and whether it is right.

samples     JSON Lines of prompts and expected answers, read strictly
tasks       greedy answers (`asking`) or likely choices (`likelihood`), kept for a resume
metrics     is an answer right? `user_metric` runs the user's own function
statistics  paired: McNemar's exact test, bootstrap interval, what so many samples can show
harness     tasks of lm-evaluation-harness by name; `lm_adapter` is what it sees of our models
"""
