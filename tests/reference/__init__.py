"""The oracle: every registered part as a formula on single vectors, and attention as plain loops over them.

Nothing here is fast or clever, and no computation here is imported from the code it checks.
"""
