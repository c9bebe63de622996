-- migrate:up
-- Built without blocking writers, so this file must not stand between BEGIN and COMMIT: each build is its own statement.
create index concurrently idx_catalog_items_name_trgm on catalog.catalog_items using gin (name public.gin_trgm_ops);

create index concurrently idx_catalog_items_search on catalog.catalog_items
  using gin (to_tsvector('english'::regconfig, name || ' ' || coalesce(properties ->> 'material', '')));

create index concurrently idx_designs_search on design.designs
  using gin (to_tsvector('english'::regconfig, name || ' ' || coalesce(metadata ->> 'description', '')));

-- migrate:down
drop index concurrently design.idx_designs_search;
drop index concurrently catalog.idx_catalog_items_search;
drop index concurrently catalog.idx_catalog_items_name_trgm;
