-- migrate:up
-- Runs with the caller's rights, so grants and row-level security decide what he may delete. Returns false when there
-- is no such row for him. Only tables with deleted_at and deleted_by are accepted, whatever name is passed.
create function shared.soft_delete(target text, record_id uuid, actor uuid) returns boolean
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  relation regclass := to_regclass(target);
  changed integer;
begin
  if relation is null or 2 <> (
    select count(*) from pg_attribute
    where attrelid = relation and attname in ('deleted_at', 'deleted_by') and not attisdropped
  ) then
    raise exception 'table "%" has no soft delete: name it with its schema, such as design.designs', target
      using errcode = 'undefined_table';
  end if;
  -- regclass prints a quoted, qualified name, so nothing of the caller's text reaches the statement.
  execute format('update %s set deleted_at = clock_timestamp(), deleted_by = $2 where id = $1 and deleted_at is null', relation)
    using record_id, actor;
  get diagnostics changed = row_count;
  return changed > 0;
end;
$$;

-- Who may call it is declared by the DatabaseSchema; without this line everybody could.
revoke execute on function shared.soft_delete(text, uuid, uuid) from public;

-- security_invoker: an ordinary view reads with its owner's rights and would show every user's rows.
-- Columns are named: with `*` a view keeps the columns of the day on which it was made, password_hash among them.
create view shared.active_users with (security_invoker = true) as
  select id, email, first_name, last_name, role, is_active, is_email_verified, settings, version, created_at, updated_at
  from shared.users where deleted_at is null;

create view avatar.active_avatars with (security_invoker = true) as
  select id, user_id, name, gender, measurements, model_url, thumbnail_url, is_default, metadata, version, created_at, updated_at
  from avatar.avatars where deleted_at is null;

create view catalog.active_catalog_items with (security_invoker = true) as
  select id, name, type, category, properties, asset_url, thumbnail_url, is_premium, price, availability_range, metadata,
    version, created_at, updated_at
  from catalog.catalog_items where deleted_at is null and is_active;

create view design.active_designs with (security_invoker = true) as
  select id, user_id, avatar_id, name, status, tags, metadata, version, created_at, updated_at
  from design.designs where deleted_at is null;

-- migrate:down
drop view design.active_designs;
drop view catalog.active_catalog_items;
drop view avatar.active_avatars;
drop view shared.active_users;
drop function shared.soft_delete(text, uuid, uuid);
