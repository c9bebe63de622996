-- migrate:up
-- version and updated_at are conventions of the DatabaseSchema: each table that has the column gets the trigger, later ones
-- too, and a trigger that is dropped comes back. Both act for a moment, and count 2: a version is compared, never added up.
drop trigger trg_users_bump_version on shared.users;
drop trigger trg_users_set_updated_at on shared.users;
drop trigger trg_avatars_bump_version on avatar.avatars;
drop trigger trg_avatars_set_updated_at on avatar.avatars;
drop trigger trg_catalog_items_bump_version on catalog.catalog_items;
drop trigger trg_catalog_items_set_updated_at on catalog.catalog_items;
drop trigger trg_designs_bump_version on design.designs;
drop trigger trg_designs_set_updated_at on design.designs;
drop trigger trg_regional_prices_bump_version on catalog.regional_prices;
drop trigger trg_regional_prices_set_updated_at on catalog.regional_prices;
drop trigger trg_user_personal_data_bump_version on shared.user_personal_data;
drop trigger trg_user_personal_data_set_updated_at on shared.user_personal_data;
drop function shared.bump_version();
drop function shared.set_updated_at();

-- migrate:down
create function shared.set_updated_at() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end;
$$;

create function shared.bump_version() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.version := old.version + 1;
  return new;
end;
$$;

create trigger trg_users_bump_version before update on shared.users
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_users_set_updated_at before update on shared.users
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();
create trigger trg_avatars_bump_version before update on avatar.avatars
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_avatars_set_updated_at before update on avatar.avatars
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();
create trigger trg_catalog_items_bump_version before update on catalog.catalog_items
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_catalog_items_set_updated_at before update on catalog.catalog_items
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();
create trigger trg_designs_bump_version before update on design.designs
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_designs_set_updated_at before update on design.designs
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();
create trigger trg_regional_prices_bump_version before update on catalog.regional_prices
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_regional_prices_set_updated_at before update on catalog.regional_prices
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();
create trigger trg_user_personal_data_bump_version before update on shared.user_personal_data
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_user_personal_data_set_updated_at before update on shared.user_personal_data
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();
