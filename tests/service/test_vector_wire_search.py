"""Searches: the same requests, the same answers, from the engine and a true Qdrant.

Scores are fixed numbers, compared to four digits.
"""

from __future__ import annotations

import aiohttp

from tests.service.vector_wire import Wire, point


async def test_dense_scores_are_cosines(stocked_wire: Wire) -> None:
    assert await stocked_wire.query(query=[1, 1, 1, 1], using="dense", limit=4) == [
        (1, 0.8333),
        (2, 0.7638),
        (3, 0.7028),
        (0, 0.6708),
    ]


async def test_sparse_scores_weigh_rare_terms_more(stocked_wire: Wire) -> None:
    query = {"indices": [1, 5], "values": [1, 1]}
    found = await stocked_wire.query(query=query, using="sparse", limit=10)
    assert found[0] == (3, 3.155)
    assert {score for _, score in found[1:]} == {0.0741}
    assert len(found) == 6


async def test_a_search_by_id_leaves_that_point_out(stocked_wire: Wire) -> None:
    assert await stocked_wire.query(query=3, using="dense", limit=2) == [(4, 0.9965), (5, 0.9907)]
    status, message = await stocked_wire.refused("POST", "/points/query", {"query": 99, "using": "dense"})
    assert (status, message) == (404, "Not found: No point with id 99 found")


async def test_reciprocal_ranks_are_fused(stocked_wire: Wire) -> None:
    prefetch = [
        {"query": [1, 1, 1, 1], "using": "dense", "limit": 4},
        {"query": {"indices": [5], "values": [1]}, "using": "sparse", "limit": 4},
    ]
    assert await stocked_wire.query(query={"fusion": "rrf"}, prefetch=prefetch, limit=3) == [
        (3, 0.75),
        (1, 0.5),
        (2, 0.3333),
    ]
    assert await stocked_wire.query(query={"rrf": {"k": 60}}, prefetch=prefetch, limit=2) == [
        (3, 0.0328),
        (1, 0.0167),
    ]


async def test_score_distributions_are_fused(stocked_wire: Wire) -> None:
    prefetch = [
        {"query": [1, 1, 1, 1], "using": "dense", "limit": 4},
        {"query": {"indices": [5, 6], "values": [2, 1]}, "using": "sparse", "limit": 4},
    ]
    assert await stocked_wire.query(query={"fusion": "dbsf"}, prefetch=prefetch, limit=4) == [
        (3, 1.0251),
        (1, 0.7108),
        (2, 0.549),
        (4, 0.3821),
    ]


async def test_a_prefetch_is_rescored_by_the_query(stocked_wire: Wire) -> None:
    prefetch = {"query": {"indices": [4, 5], "values": [1, 1]}, "using": "sparse", "limit": 2}
    found = await stocked_wire.query(query=[1, 1, 1, 1], using="dense", prefetch=prefetch, limit=5)
    assert found == [(2, 0.7638), (3, 0.7028)]


async def test_threshold_offset_and_parameters_shape_the_answer(stocked_wire: Wire) -> None:
    search = {"query": [1, 1, 1, 1], "using": "dense"}
    assert await stocked_wire.query(**search, score_threshold=0.75) == [(1, 0.8333), (2, 0.7638)]
    assert await stocked_wire.query(**search, offset=1, limit=1) == [(2, 0.7638)]
    exact = {"exact": True, "hnsw_ef": 32}
    assert await stocked_wire.query(**search, params=exact, limit=1) == [(1, 0.8333)]


async def test_a_search_gives_the_payload_and_vectors_that_are_asked_for(stocked_wire: Wire) -> None:
    body = {"query": [1, 0, 0, 0], "using": "dense", "limit": 1}
    (bare,) = (await stocked_wire("POST", "/points/query", body))["points"]
    assert set(bare) == {"id", "version", "score"}
    body |= {"with_payload": ["n"], "with_vector": ["dense"]}
    (full,) = (await stocked_wire("POST", "/points/query", body))["points"]
    assert full["payload"] == {"n": 0}
    assert [round(x, 4) for x in full["vector"]["dense"]] == [0.8944, 0, 0.4472, 0]


async def test_points_are_ordered_by_a_payload_field(indexed_wire: Wire) -> None:
    body = {"query": {"order_by": {"key": "n", "direction": "desc"}}, "limit": 2}
    points = (await indexed_wire("POST", "/points/query", body))["points"]
    assert [item["id"] for item in points] == [5, 4]
    since = {"key": "day", "start_from": "2024-01-03T00:00:00Z"}
    page = await indexed_wire("POST", "/points/scroll", {"order_by": since, "limit": 2, "with_payload": False})
    assert [item["id"] for item in page["points"]] == [2, 3]
    assert page["next_page_offset"] is None


async def test_ordering_without_an_index_is_refused(stocked_wire: Wire) -> None:
    status, message = await stocked_wire.refused("POST", "/points/scroll", {"order_by": "n"})
    assert status == 400
    assert "No range index for `order_by` key: `n`" in message


async def test_a_batch_of_searches_answers_each(stocked_wire: Wire) -> None:
    searches = [
        {"query": [1, 1, 1, 1], "using": "dense", "limit": 1},
        {"query": {"indices": [5], "values": [1]}, "using": "sparse", "limit": 1, "with_payload": ["n"]},
        {"query": 3, "using": "dense", "limit": 1},
    ]
    results = await stocked_wire("POST", "/points/query/batch", {"searches": searches})
    assert [result["points"][0]["id"] for result in results] == [1, 3, 4]
    assert results[1]["points"][0]["payload"] == {"n": 3}


async def test_pages_follow_the_offset(stocked_wire: Wire) -> None:
    first = await stocked_wire("POST", "/points/scroll", {"limit": 4})
    assert [item["id"] for item in first["points"]] == [0, 1, 2, 3]
    assert first["points"][1]["payload"] == point(1)["payload"]
    assert first["next_page_offset"] == 4
    rest = await stocked_wire("POST", "/points/scroll", {"limit": 4, "offset": 4, "with_payload": False})
    assert rest == {"points": [{"id": 4}, {"id": 5}], "next_page_offset": None}


async def test_values_of_a_field_are_counted(indexed_wire: Wire) -> None:
    hits = (await indexed_wire("POST", "/facet", {"key": "kind", "exact": True}))["hits"]
    assert sorted((hit["value"], hit["count"]) for hit in hits) == [("even", 3), ("odd", 3)]


async def test_a_collection_of_one_unnamed_vector(vector_url: str, collection_name: str) -> None:
    async with aiohttp.ClientSession(vector_url) as session:
        filled_wire = Wire(session, collection_name)
        await filled_wire("PUT", "", {"vectors": {"size": 3, "distance": "Euclid"}})
        points = [{"id": 1, "vector": [1, 2, 3]}, {"id": 2, "vector": [3, 2, 1]}]
        await filled_wire("PUT", "/points?wait=true", {"points": points})
        await filled_wire("PUT", "/points?wait=true", {"batch": {"ids": [3], "vectors": [[0, 0, 1]]}})
        assert await filled_wire.query(query=[1, 2, 2]) == [(1, 1.0), (2, 2.2361), (3, 2.4495)]
        assert (await filled_wire("GET", "/points/1"))["vector"] == [1.0, 2.0, 3.0]
        await filled_wire("DELETE", "")
