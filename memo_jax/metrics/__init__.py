"""Sets of videos measured as papers measure them: FID, FVD, Sync-C, Sync-D, identity, E-FID.

`compare` streams over two folders, `report` writes what was found, `preference` asks people.
"""
