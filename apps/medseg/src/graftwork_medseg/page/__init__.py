"""The local page of medseg: pick or load a scan, compare the masks of base and graft, take them along."""
