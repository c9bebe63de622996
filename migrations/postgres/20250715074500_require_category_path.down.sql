alter table catalog.catalog_items
  add constraint chk_catalog_items_category_path check (category_path is not null) not valid;

alter table catalog.catalog_items alter column category_path drop not null;
