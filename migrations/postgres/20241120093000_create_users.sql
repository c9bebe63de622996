-- migrate:up
-- Lock order everywhere, triggers and application alike: shared.users before avatar.avatars before design.designs.
create table shared.users (
  id uuid not null default public.uuid_generate_v4(),
  email varchar(255) not null,
  password_hash varchar(255) not null,
  first_name varchar(100),
  last_name varchar(100),
  role shared.user_role not null default 'user',
  is_active boolean not null default true,
  is_email_verified boolean not null default false,
  settings jsonb not null default '{}',
  metadata jsonb not null default '{}',
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  created_by uuid,
  updated_by uuid,
  deleted_by uuid,
  constraint pk_users primary key (id),
  constraint fk_users_users_created_by foreign key (created_by) references shared.users (id) on delete set null,
  constraint fk_users_users_updated_by foreign key (updated_by) references shared.users (id) on delete set null,
  constraint fk_users_users_deleted_by foreign key (deleted_by) references shared.users (id) on delete set null,
  constraint chk_users_email check (email ~ '^[^@[:space:]]+@[^@[:space:]]+\.[^@[:space:]]+$'),
  constraint chk_users_password_hash check (char_length(password_hash) = 60),
  constraint chk_users_version check (version >= 1)
);

comment on table shared.users is 'accounts of all services';
comment on column shared.users.password_hash is 'bcrypt, 60 characters';

-- Not partial: the address of a deleted account stays taken, or its successor would inherit links that were mailed to it.
create unique index uidx_users_email_lower on shared.users (lower(email));
create index idx_users_email on shared.users (email) where deleted_at is null;
create index idx_users_role on shared.users (role) where deleted_at is null;
create index idx_users_is_active on shared.users (is_active) where deleted_at is null;
create index idx_users_created_by on shared.users (created_by);
create index idx_users_updated_by on shared.users (updated_by);
create index idx_users_deleted_by on shared.users (deleted_by);

-- Triggers fire in the order of their names: an update that changes nothing passes both by.
create trigger trg_users_bump_version before update on shared.users
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_users_set_updated_at before update on shared.users
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();

-- migrate:down
drop table shared.users;
