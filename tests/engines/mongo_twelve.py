"""Twelve migrations of MongoDB that hold every kind of command, and that show a command that ran twice."""

from __future__ import annotations

from tests.engines.mongo_migrations_support import both

_DESIGNS = [{"_id": number, "name": f"d{number}", "userId": number % 3, "n": 0} for number in range(9)]
_STRICT = {"$jsonSchema": {"required": ["userId"]}}


def _bump(value: int, **where: object) -> dict[str, object]:
    """Run twice, this is seen."""
    return {"update": "designs", "updates": [{"q": where, "u": {"$inc": {"n": value}}, "multi": True}]}


TWELVE = {
    "20250101000000_designs.json": both(
        [
            {"create": "designs", "validator": {"$jsonSchema": {"required": ["name"]}}},
            {
                "insert": "designs",
                "documents": [{"_id": i, "name": f"d{i}", "userId": i % 3, "n": 0} for i in range(9)],
            },
        ],
        [{"drop": "designs"}],
    ),
    "20250102000000_bump.json": both([_bump(1), _bump(10, userId=1)], [_bump(-10, userId=1), _bump(-1)]),
    "20250103000000_index.json": both(
        [
            {"createIndexes": "designs", "indexes": [{"key": {"userId": 1, "name": 1}, "unique": True}]},
            {"createIndexes": "designs", "indexes": [{"key": {"n": 1}, "name": "n", "sparse": True}]},
        ],
        [{"dropIndexes": "designs", "index": ["n", "userId_1_name_1"]}],
    ),
    "20250104000000_batches.json": both(
        [{"x-batchUpdate": {"coll": "designs", "update": {"$inc": {"n": 100}}, "batchSize": 4}}, {"create": "after"}],
        [
            {"drop": "tags"},
            {"drop": "after"},
            {"x-batchUpdate": {"coll": "designs", "filter": {}, "update": {"$inc": {"n": -100}}, "batchSize": 5}},
        ],
    ),
    "20250105000000_together.json": both(
        [
            {"create": "tags"},
            {"createIndexes": "tags", "indexes": [{"key": {"tag": 1}}]},
            {"insert": "tags", "documents": [{"_id": "a", "tag": 1}, {"_id": "b", "tag": 2}]},
            _bump(1000),
        ],
        [_bump(-1000), {"delete": "tags", "deletes": [{"q": {}, "limit": 0}]}],
        transaction=True,
    ),
    "20250106000000_stricter.json": both(
        [{"collMod": "designs", "validator": _STRICT, "validationLevel": "strict"}, _bump(1, userId=0)],
        [{"collMod": "designs", "validator": {"$jsonSchema": {"required": ["name"]}}}, _bump(-1, userId=0)],
    ),
    "20250107000000_rename.json": both(
        [{"renameCollection": "after", "to": "later"}, {"insert": "later", "documents": [{"_id": 1}]}],
        [{"delete": "later", "deletes": [{"q": {"_id": 1}, "limit": 1}]}, {"renameCollection": "later", "to": "after"}],
    ),
    "20250108000000_out.json": both(
        [
            {"aggregate": "designs", "pipeline": [{"$match": {"userId": 1}}, {"$out": "firsts"}], "cursor": {}},
            {"findAndModify": "designs", "query": {"_id": 4}, "update": {"$inc": {"n": 5}}},
        ],
        [{"findAndModify": "designs", "query": {"_id": 4}, "update": {"$inc": {"n": -5}}}, {"drop": "firsts"}],
    ),
    "20250109000000_capped.json": both(
        [{"create": "log", "capped": True, "size": 4096}, {"create": "at", "timeseries": {"timeField": "t"}}],
        [{"drop": "at"}, {"drop": "log"}],
    ),
    "20250110000000_without_index.json": both(
        [{"dropIndexes": "designs", "index": "n"}, _bump(7, _id=0)],
        [_bump(-7, _id=0), {"createIndexes": "designs", "indexes": [{"key": {"n": 1}, "name": "n", "sparse": True}]}],
    ),
    "20250111000000_tolerant.json": both(
        [
            {"create": "designs", "ifNotExists": True, "validator": _STRICT},
            {"drop": "nothing", "ifNotExists": True},
            {"create": "view", "viewOn": "designs", "pipeline": [{"$match": {"userId": 2}}]},
        ],
        [{"drop": "view"}],
    ),
    "20250112000000_last.json": both(
        [{"delete": "designs", "deletes": [{"q": {"_id": 8}, "limit": 1}]}, _bump(1)],
        [
            _bump(-1),
            {"insert": "designs", "documents": [{"_id": 8, "name": "d8", "userId": 2, "n": 1101}]},
        ],
    ),
}
