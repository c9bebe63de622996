"""MongoDB 6 and later: collections, validators and indexes of databases that are already there or are to be."""

from selvedge.engines.mongodb.engine import MongoEngine

__all__ = ["MongoEngine"]
