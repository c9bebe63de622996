-- Reads the table under a lock that lets everybody read and write.
alter table catalog.catalog_items validate constraint chk_catalog_items_category_path;

-- Sees the validated constraint and does not scan under its own, exclusive lock.
alter table catalog.catalog_items alter column category_path set not null;

alter table catalog.catalog_items drop constraint chk_catalog_items_category_path;
