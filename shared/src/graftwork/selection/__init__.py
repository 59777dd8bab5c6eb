"""Which samples train which layers?"""
