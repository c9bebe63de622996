-- migrate:up
-- Who the user is: nullif, as a pooled connection has '' after an earlier SET LOCAL, and ''::uuid fails; `true`, as a fresh one
-- has nothing at all, and the bare call fails. Both give NULL, and NULL matches no row. `(select …)`: asked once, not for each row.
-- Not forced: migrations run as the owner, which is no login; forced, their data changes would touch 0 rows in silence.
alter table shared.users enable row level security;

create policy own_row on shared.users to app_readwrite
  using (id = (select nullif(current_setting('app.current_user_id', true), '')::uuid));
create policy admins_see_all on shared.users to app_admin using (true) with check (true);

alter table shared.user_personal_data enable row level security;

create policy own_row on shared.user_personal_data to app_readwrite
  using (user_id = (select nullif(current_setting('app.current_user_id', true), '')::uuid));
create policy admins_see_all on shared.user_personal_data to app_admin using (true) with check (true);

alter table avatar.avatars enable row level security;

create policy own_rows on avatar.avatars to app_readwrite
  using (user_id = (select nullif(current_setting('app.current_user_id', true), '')::uuid));
create policy admins_see_all on avatar.avatars to app_admin using (true) with check (true);

alter table design.designs enable row level security;

create policy own_rows on design.designs to app_readwrite
  using (user_id = (select nullif(current_setting('app.current_user_id', true), '')::uuid));
-- To read, not to change: policies are joined by OR, and this one is FOR SELECT.
create policy published_to_everyone on design.designs for select to app_readonly, app_readwrite
  using (status = 'published' and deleted_at is null);
create policy admins_see_all on design.designs to app_admin using (true) with check (true);

-- Somebody who logs in is nobody yet and sees no row of shared.users: this function, and it alone, finds him.
create function shared.find_login(login_email text)
returns table (user_id uuid, password_hash text, role shared.user_role, is_active boolean)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select u.id, u.password_hash::text, u.role, u.is_active
  from shared.users as u
  where lower(u.email) = lower(login_email) and u.deleted_at is null;
$$;

revoke execute on function shared.find_login(text) from public;

-- migrate:down
drop function shared.find_login(text);

drop policy admins_see_all on design.designs;
drop policy published_to_everyone on design.designs;
drop policy own_rows on design.designs;
alter table design.designs disable row level security;

drop policy admins_see_all on avatar.avatars;
drop policy own_rows on avatar.avatars;
alter table avatar.avatars disable row level security;

drop policy admins_see_all on shared.user_personal_data;
drop policy own_row on shared.user_personal_data;
alter table shared.user_personal_data disable row level security;

drop policy admins_see_all on shared.users;
drop policy own_row on shared.users;
alter table shared.users disable row level security;
