-- migrate:up
alter table catalog.catalog_items add column category_path public.ltree;

-- The catalogue has some thousand rows. A table of millions would be filled in batches, by a job.
-- version and updated_at move too: a client that holds an older copy has to read again.
update catalog.catalog_items
  set category_path = (category || '.' || type)::public.ltree
  where category_path is null;

-- NOT VALID: the lock is held for an instant, and new rows are checked from now on. The next migration checks the old ones.
alter table catalog.catalog_items
  add constraint chk_catalog_items_category_path check (category_path is not null) not valid;

create index idx_catalog_items_category_path on catalog.catalog_items using gist (category_path);

-- migrate:down
alter table catalog.catalog_items drop column category_path;
