-- migrate:up
-- A statement trigger with transition tables costs half of what a row trigger does on bulk changes.
-- It runs AFTER, where the returned value is ignored: a BEFORE DELETE row trigger that returns NEW (which is NULL there)
-- cancels the delete in silence. And each event reads only the rows that it has: there is no OLD in an INSERT.
-- SECURITY DEFINER: the application may cause an entry, and neither write, read nor change one. Arguments: columns to leave out.
create function audit.record_change() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  relation text := coalesce(pg_partition_root(tg_relid), tg_relid)::regclass::text;
  actor uuid := nullif(current_setting('app.current_user_id', true), '')::uuid;
  hidden text[] := coalesce(tg_argv, '{}');
  -- current_query() shows literals, a key or a password among them: kept only where the session asks for it.
  statement text := case when current_setting('app.audit_query', true) = 'on' then left(current_query(), 10000) end;
begin
  if tg_op = 'INSERT' then
    insert into audit.database_operations
      (table_name, operation, record_id, user_id, session_role, active_role, ip_address, new_values, query)
      select relation, tg_op, __new.id, actor, session_user, current_setting('role'), inet_client_addr(),
        to_jsonb(__new.*) - hidden, statement
      from __new_rows as __new;
  elsif tg_op = 'UPDATE' then
    -- A full join: a row whose id was changed appears twice, as the one that went and the one that came.
    insert into audit.database_operations
      (table_name, operation, record_id, user_id, session_role, active_role, ip_address, old_values, new_values, query)
      select relation, tg_op, coalesce(__new.id, __old.id), actor, session_user, current_setting('role'), inet_client_addr(),
        case when __old.id is not null then to_jsonb(__old.*) - hidden end,
        case when __new.id is not null then to_jsonb(__new.*) - hidden end, statement
      from __old_rows as __old full join __new_rows as __new on __new.id = __old.id
      where __old.* is distinct from __new.*;
  elsif tg_op = 'DELETE' then
    insert into audit.database_operations
      (table_name, operation, record_id, user_id, session_role, active_role, ip_address, old_values, query)
      select relation, tg_op, __old.id, actor, session_user, current_setting('role'), inet_client_addr(),
        to_jsonb(__old.*) - hidden, statement
      from __old_rows as __old;
  else
    insert into audit.database_operations (table_name, operation, user_id, session_role, active_role, ip_address, query)
      values (relation, tg_op, actor, session_user, current_setting('role'), inet_client_addr(), statement);
  end if;
  return null;
end;
$$;

revoke execute on function audit.record_change() from public;

-- One trigger for each event: transition tables allow no more. password_hash never reaches the trail.
create trigger trg_users_audit_insert after insert on shared.users
  referencing new table as __new_rows for each statement execute function audit.record_change('password_hash');
create trigger trg_users_audit_update after update on shared.users
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change('password_hash');
create trigger trg_users_audit_delete after delete on shared.users
  referencing old table as __old_rows for each statement execute function audit.record_change('password_hash');
create trigger trg_users_audit_truncate after truncate on shared.users
  for each statement execute function audit.record_change();

-- Body measurements are personal data and are not copied into a table that is kept for a year.
create trigger trg_avatars_audit_insert after insert on avatar.avatars
  referencing new table as __new_rows for each statement execute function audit.record_change('measurements');
create trigger trg_avatars_audit_update after update on avatar.avatars
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change('measurements');
create trigger trg_avatars_audit_delete after delete on avatar.avatars
  referencing old table as __old_rows for each statement execute function audit.record_change('measurements');
create trigger trg_avatars_audit_truncate after truncate on avatar.avatars
  for each statement execute function audit.record_change();

create trigger trg_designs_audit_insert after insert on design.designs
  referencing new table as __new_rows for each statement execute function audit.record_change();
create trigger trg_designs_audit_update after update on design.designs
  referencing old table as __old_rows new table as __new_rows for each statement execute function audit.record_change();
create trigger trg_designs_audit_delete after delete on design.designs
  referencing old table as __old_rows for each statement execute function audit.record_change();
create trigger trg_designs_audit_truncate after truncate on design.designs
  for each statement execute function audit.record_change();

-- The application's own log, for services that have no right to look into the schema audit. The actor is the session's.
create function shared.write_audit_log(
  entity_type text, entity_id uuid, action text, old_values jsonb, new_values jsonb, metadata jsonb, user_agent text
) returns uuid
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into audit.audit_logs (user_id, entity_type, entity_id, action, old_values, new_values, metadata, ip_address, user_agent)
  values (nullif(current_setting('app.current_user_id', true), '')::uuid, $1, $2, $3, $4, $5, coalesce($6, '{}'),
    inet_client_addr(), $7)
  returning id;
$$;

revoke execute on function shared.write_audit_log(text, uuid, text, jsonb, jsonb, jsonb, text) from public;

-- migrate:down
drop function shared.write_audit_log(text, uuid, text, jsonb, jsonb, jsonb, text);
drop trigger trg_designs_audit_truncate on design.designs;
drop trigger trg_designs_audit_delete on design.designs;
drop trigger trg_designs_audit_update on design.designs;
drop trigger trg_designs_audit_insert on design.designs;
drop trigger trg_avatars_audit_truncate on avatar.avatars;
drop trigger trg_avatars_audit_delete on avatar.avatars;
drop trigger trg_avatars_audit_update on avatar.avatars;
drop trigger trg_avatars_audit_insert on avatar.avatars;
drop trigger trg_users_audit_truncate on shared.users;
drop trigger trg_users_audit_delete on shared.users;
drop trigger trg_users_audit_update on shared.users;
drop trigger trg_users_audit_insert on shared.users;
drop function audit.record_change();
