-- migrate:up
-- Makes the partition that holds today and the next ones, those that are missing only; step is 'day' or 'month'.
-- LIKE and ATTACH take ShareUpdateExclusive on the parent, CREATE TABLE … PARTITION OF would take AccessExclusive;
-- the CHECK lets ATTACH skip the scan. No DEFAULT partition: rows in it would block the partition that they belong to.
create function shared.ensure_partitions(parent regclass, step text, ahead integer) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
declare
  parent_schema name;
  parent_table name;
  key_column name;
  first_bound timestamptz;
  last_bound timestamptz;
  partition_name text;
  made integer := 0;
begin
  if step is null or step not in ('day', 'month') or ahead is null or ahead not between 0 and 400 then
    raise exception 'partitions of % need a step of day or month and 0 to 400 of them ahead', parent
      using errcode = 'invalid_parameter_value';
  end if;
  select n.nspname, c.relname, a.attname into strict parent_schema, parent_table, key_column
    from pg_partitioned_table p
    join pg_class c on c.oid = p.partrelid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
    where p.partrelid = parent and p.partstrat = 'r' and p.partnatts = 1;
  for i in 0 .. ahead loop
    first_bound := date_trunc(step, now()) + i * ('1 ' || step)::interval;
    last_bound := first_bound + ('1 ' || step)::interval;
    partition_name := parent_table || '_p' || to_char(first_bound, case step when 'day' then 'YYYYMMDD' else 'YYYYMM' end);
    continue when to_regclass(format('%I.%I', parent_schema, partition_name)) is not null;
    execute format('create table %I.%I (like %I.%I including defaults including constraints)',
      parent_schema, partition_name, parent_schema, parent_table);
    execute format('alter table %I.%I add constraint chk_bounds check (%I >= %L and %I < %L)',
      parent_schema, partition_name, key_column, first_bound, key_column, last_bound);
    execute format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
      parent_schema, parent_table, parent_schema, partition_name, first_bound, last_bound);
    execute format('alter table %I.%I drop constraint chk_bounds', parent_schema, partition_name);
    made := made + 1;
  end loop;
  return made;
end;
$$;

revoke execute on function shared.ensure_partitions(regclass, text, integer) from public;

create table audit.database_operations (
  id uuid not null default public.uuid_generate_v4(),
  table_name text not null,
  operation varchar(10) not null,
  record_id uuid,
  user_id uuid,
  session_role text not null,
  active_role text not null,
  ip_address inet,
  old_values jsonb,
  new_values jsonb,
  query text,
  executed_at timestamptz not null default clock_timestamp(),
  constraint pk_database_operations primary key (id, executed_at),
  constraint chk_database_operations_operation check (operation in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'))
) partition by range (executed_at);

comment on table audit.database_operations is 'what triggers saw; one year is kept';
comment on column audit.database_operations.user_id is 'app.current_user_id; no foreign key, a trail outlives the user';

create index idx_database_operations_table_name_operation_executed_at
  on audit.database_operations (table_name, operation, executed_at);
create index idx_database_operations_user_id_executed_at on audit.database_operations (user_id, executed_at);

create table audit.audit_logs (
  id uuid not null default public.uuid_generate_v4(),
  user_id uuid,
  entity_type varchar(100) not null,
  entity_id uuid,
  action varchar(10) not null,
  old_values jsonb,
  new_values jsonb,
  metadata jsonb not null default '{}',
  ip_address inet,
  user_agent text,
  created_at timestamptz not null default now(),
  constraint pk_audit_logs primary key (id, created_at),
  constraint chk_audit_logs_action check (action in ('CREATE', 'UPDATE', 'DELETE', 'READ'))
) partition by range (created_at);

comment on table audit.audit_logs is 'what the application says it did; one year is kept';

create index idx_audit_logs_entity_type_entity_id_created_at on audit.audit_logs (entity_type, entity_id, created_at);
create index idx_audit_logs_user_id_created_at on audit.audit_logs (user_id, created_at);

select shared.ensure_partitions('audit.database_operations', 'month', 12);
select shared.ensure_partitions('audit.audit_logs', 'month', 12);

-- migrate:down
drop table audit.audit_logs;
drop table audit.database_operations;
drop function shared.ensure_partitions(regclass, text, integer);
