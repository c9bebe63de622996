create index concurrently idx_catalog_items_availability_range on catalog.catalog_items using gist (availability_range);

-- Equality on long addresses is all that is asked: a hash index keeps 4 bytes of each.
create index concurrently idx_catalog_items_asset_url on catalog.catalog_items using hash (asset_url);
