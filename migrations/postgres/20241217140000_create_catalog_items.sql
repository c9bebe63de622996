-- migrate:up
create table catalog.catalog_items (
  id uuid not null default public.uuid_generate_v4(),
  name varchar(255) not null,
  type varchar(20) not null,
  category varchar(20) not null,
  properties jsonb not null default '{}',
  asset_url text,
  thumbnail_url text,
  is_premium boolean not null default false,
  is_active boolean not null default true,
  price numeric(10, 2) not null default 0,
  availability_range tstzrange not null default tstzrange(now(), null),
  metadata jsonb not null default '{}',
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  created_by uuid,
  updated_by uuid,
  deleted_by uuid,
  constraint pk_catalog_items primary key (id),
  constraint fk_catalog_items_users_created_by foreign key (created_by) references shared.users (id) on delete set null,
  constraint fk_catalog_items_users_updated_by foreign key (updated_by) references shared.users (id) on delete set null,
  constraint fk_catalog_items_users_deleted_by foreign key (deleted_by) references shared.users (id) on delete set null,
  constraint chk_catalog_items_type check (type in ('silhouette', 'fabric', 'pattern')),
  constraint chk_catalog_items_category check (category in ('top', 'bottom', 'dress', 'outerwear', 'accessory', 'other')),
  constraint chk_catalog_items_properties check (jsonb_typeof(properties) = 'object'),
  constraint chk_catalog_items_price check (price >= 0),
  constraint chk_catalog_items_availability_range check (not isempty(availability_range)),
  constraint chk_catalog_items_version check (version >= 1)
);

comment on column catalog.catalog_items.properties is 'color, texture, material, patternType, tags';

create index idx_catalog_items_type_category on catalog.catalog_items (type, category) where deleted_at is null;
create index idx_catalog_items_is_active on catalog.catalog_items (is_premium, price) where is_active and deleted_at is null;
create index idx_catalog_items_properties on catalog.catalog_items using gin (properties);
create index idx_catalog_items_created_by on catalog.catalog_items (created_by);
create index idx_catalog_items_updated_by on catalog.catalog_items (updated_by);
create index idx_catalog_items_deleted_by on catalog.catalog_items (deleted_by);

create trigger trg_catalog_items_bump_version before update on catalog.catalog_items
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_catalog_items_set_updated_at before update on catalog.catalog_items
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();

-- migrate:down
drop table catalog.catalog_items;
