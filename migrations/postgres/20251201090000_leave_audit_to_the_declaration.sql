-- migrate:up
-- The operator keeps the trail now, in the schema trail (audit in the DatabaseSchema): it repairs a trigger that somebody
-- drops, and the log belongs to a role that nobody is, so that not even a migration can change an entry. Its triggers are
-- there before these go: nothing goes unrecorded. What was recorded until now stays until the year is over.
drop trigger trg_users_audit_truncate on shared.users;
drop trigger trg_users_audit_delete on shared.users;
drop trigger trg_users_audit_update on shared.users;
drop trigger trg_users_audit_insert on shared.users;
drop trigger trg_user_personal_data_audit_truncate on shared.user_personal_data;
drop trigger trg_user_personal_data_audit_delete on shared.user_personal_data;
drop trigger trg_user_personal_data_audit_update on shared.user_personal_data;
drop trigger trg_user_personal_data_audit_insert on shared.user_personal_data;
drop trigger trg_avatars_audit_truncate on avatar.avatars;
drop trigger trg_avatars_audit_delete on avatar.avatars;
drop trigger trg_avatars_audit_update on avatar.avatars;
drop trigger trg_avatars_audit_insert on avatar.avatars;
drop trigger trg_designs_audit_truncate on design.designs;
drop trigger trg_designs_audit_delete on design.designs;
drop trigger trg_designs_audit_update on design.designs;
drop trigger trg_designs_audit_insert on design.designs;
drop function audit.record_change();

comment on table audit.database_operations is 'what triggers saw until trail.database_operations; one year is kept';

-- migrate:down
comment on table audit.database_operations is 'what triggers saw; one year is kept';

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

create trigger trg_users_audit_insert after insert on shared.users
  referencing new table as __new_rows for each statement execute function audit.record_change('password_hash');
create trigger trg_users_audit_update after update on shared.users
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change('password_hash');
create trigger trg_users_audit_delete after delete on shared.users
  referencing old table as __old_rows for each statement execute function audit.record_change('password_hash');
create trigger trg_users_audit_truncate after truncate on shared.users
  for each statement execute function audit.record_change();

create trigger trg_user_personal_data_audit_insert after insert on shared.user_personal_data
  referencing new table as __new_rows for each statement execute function audit.record_change(
    'contact_email_encrypted', 'contact_email_digest', 'phone_encrypted', 'phone_digest', 'payment_encrypted');
create trigger trg_user_personal_data_audit_update after update on shared.user_personal_data
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change(
    'contact_email_encrypted', 'contact_email_digest', 'phone_encrypted', 'phone_digest', 'payment_encrypted');
create trigger trg_user_personal_data_audit_delete after delete on shared.user_personal_data
  referencing old table as __old_rows for each statement execute function audit.record_change(
    'contact_email_encrypted', 'contact_email_digest', 'phone_encrypted', 'phone_digest', 'payment_encrypted');
create trigger trg_user_personal_data_audit_truncate after truncate on shared.user_personal_data
  for each statement execute function audit.record_change();

create trigger trg_avatars_audit_insert after insert on avatar.avatars
  referencing new table as __new_rows for each statement execute function audit.record_change('measurements', 'measurements_encrypted');
create trigger trg_avatars_audit_update after update on avatar.avatars
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change('measurements', 'measurements_encrypted');
create trigger trg_avatars_audit_delete after delete on avatar.avatars
  referencing old table as __old_rows for each statement execute function audit.record_change('measurements', 'measurements_encrypted');
create trigger trg_avatars_audit_truncate after truncate on avatar.avatars
  for each statement execute function audit.record_change();

create trigger trg_designs_audit_insert after insert on design.designs
  referencing new table as __new_rows for each statement execute function audit.record_change();
create trigger trg_designs_audit_update after update on design.designs
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change();
create trigger trg_designs_audit_delete after delete on design.designs
  referencing old table as __old_rows for each statement execute function audit.record_change();
create trigger trg_designs_audit_truncate after truncate on design.designs
  for each statement execute function audit.record_change();
