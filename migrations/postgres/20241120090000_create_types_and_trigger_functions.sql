-- migrate:up
create type shared.user_role as enum ('user', 'premium', 'admin', 'brand');

create type design.design_status as enum ('draft', 'published', 'archived');

-- clock_timestamp(), not now(): two transactions that change one row are ordered by its lock, and with now() the later
-- of them could carry the earlier time when it had begun first. created_at keeps now(), so it is never the later one.
create function shared.set_updated_at() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end;
$$;

-- A client that read version 3 updates `where id = … and version = 3`; 0 rows mean that somebody was faster.
create function shared.bump_version() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.version := old.version + 1;
  return new;
end;
$$;

-- migrate:down
drop function shared.bump_version();
drop function shared.set_updated_at();
drop type design.design_status;
drop type shared.user_role;
