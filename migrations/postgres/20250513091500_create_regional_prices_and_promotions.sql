-- migrate:up
create table catalog.regional_prices (
  id uuid not null default public.uuid_generate_v4(),
  catalog_item_id uuid not null,
  region varchar(2) not null,
  currency varchar(3) not null,
  price numeric(10, 2) not null,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_regional_prices primary key (id, region),
  constraint fk_regional_prices_catalog_items_catalog_item_id
    foreign key (catalog_item_id) references catalog.catalog_items (id) on delete cascade,
  constraint unq_regional_prices_catalog_item_id_region unique (catalog_item_id, region),
  constraint chk_regional_prices_currency check (currency ~ '^[A-Z]{3}$'),
  constraint chk_regional_prices_price check (price >= 0)
) partition by list (region);

create table catalog.regional_prices_americas partition of catalog.regional_prices for values in ('US', 'CA', 'MX', 'BR');
create table catalog.regional_prices_europe partition of catalog.regional_prices for values in ('DE', 'FR', 'GB', 'IT', 'ES', 'NL');
create table catalog.regional_prices_asia partition of catalog.regional_prices for values in ('JP', 'KR', 'IN', 'SG');

create trigger trg_regional_prices_bump_version before update on catalog.regional_prices
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_regional_prices_set_updated_at before update on catalog.regional_prices
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();

-- Two promotions of one item never overlap: the server sees to that, not a query before the insert.
create table catalog.promotions (
  id uuid not null default public.uuid_generate_v4(),
  catalog_item_id uuid not null,
  name varchar(255) not null,
  discount_percent numeric(5, 2) not null,
  active_range tstzrange not null,
  created_at timestamptz not null default now(),
  constraint pk_promotions primary key (id),
  constraint fk_promotions_catalog_items_catalog_item_id
    foreign key (catalog_item_id) references catalog.catalog_items (id) on delete cascade,
  constraint chk_promotions_discount_percent check (discount_percent > 0 and discount_percent <= 100),
  constraint chk_promotions_active_range check (not isempty(active_range)),
  constraint exc_promotions_catalog_item_id_active_range
    exclude using gist (catalog_item_id with =, active_range with &&)
);

-- migrate:down
drop table catalog.promotions;
drop table catalog.regional_prices;
