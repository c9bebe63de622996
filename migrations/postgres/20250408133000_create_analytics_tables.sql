-- migrate:up
create table analytics.usage_metrics (
  id uuid not null default public.uuid_generate_v4(),
  name varchar(100) not null,
  value double precision not null,
  labels public.hstore not null default '',
  recorded_at timestamptz not null default now(),
  constraint pk_usage_metrics primary key (id, recorded_at)
) partition by range (recorded_at);

create index idx_usage_metrics_name_recorded_at on analytics.usage_metrics (name, recorded_at);
create index idx_usage_metrics_labels on analytics.usage_metrics using gin (labels);

create table analytics.api_requests (
  id uuid not null default public.uuid_generate_v4(),
  user_id uuid,
  method varchar(10) not null,
  route varchar(255) not null,
  status smallint not null,
  duration_ms integer not null,
  requested_at timestamptz not null default now(),
  constraint pk_api_requests primary key (id, requested_at),
  constraint chk_api_requests_status check (status between 100 and 599),
  constraint chk_api_requests_duration_ms check (duration_ms >= 0)
) partition by range (requested_at);

create index idx_api_requests_route_status on analytics.api_requests (route, status);
-- Rows arrive in the order of time: a BRIN index of a few pages does for a whole partition.
create index idx_api_requests_requested_at on analytics.api_requests using brin (requested_at);

-- What belongs to a user is spread by user, so that one user's rows are in one partition. 8 partitions for good:
-- changing the number means moving the rows.
create table analytics.user_activity (
  id uuid not null default public.uuid_generate_v4(),
  user_id uuid not null,
  activity varchar(50) not null,
  metadata jsonb not null default '{}',
  occurred_at timestamptz not null default now(),
  constraint pk_user_activity primary key (id, user_id),
  constraint fk_user_activity_users_user_id foreign key (user_id) references shared.users (id) on delete cascade
) partition by hash (user_id);

create index idx_user_activity_user_id_occurred_at on analytics.user_activity (user_id, occurred_at desc);

create table analytics.user_activity_p0 partition of analytics.user_activity for values with (modulus 8, remainder 0);
create table analytics.user_activity_p1 partition of analytics.user_activity for values with (modulus 8, remainder 1);
create table analytics.user_activity_p2 partition of analytics.user_activity for values with (modulus 8, remainder 2);
create table analytics.user_activity_p3 partition of analytics.user_activity for values with (modulus 8, remainder 3);
create table analytics.user_activity_p4 partition of analytics.user_activity for values with (modulus 8, remainder 4);
create table analytics.user_activity_p5 partition of analytics.user_activity for values with (modulus 8, remainder 5);
create table analytics.user_activity_p6 partition of analytics.user_activity for values with (modulus 8, remainder 6);
create table analytics.user_activity_p7 partition of analytics.user_activity for values with (modulus 8, remainder 7);

select shared.ensure_partitions('analytics.usage_metrics', 'month', 12);
select shared.ensure_partitions('analytics.api_requests', 'day', 14);

-- migrate:down
drop table analytics.user_activity;
drop table analytics.api_requests;
drop table analytics.usage_metrics;
