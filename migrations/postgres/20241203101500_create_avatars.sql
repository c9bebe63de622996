-- migrate:up
create table avatar.avatars (
  id uuid not null default public.uuid_generate_v4(),
  user_id uuid not null,
  name varchar(255) not null,
  gender varchar(10) not null default 'unisex',
  measurements jsonb not null default '{}',
  model_url text,
  thumbnail_url text,
  is_default boolean not null default false,
  metadata jsonb not null default '{}',
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  created_by uuid,
  updated_by uuid,
  deleted_by uuid,
  constraint pk_avatars primary key (id),
  constraint fk_avatars_users_user_id foreign key (user_id) references shared.users (id) on delete cascade,
  constraint fk_avatars_users_created_by foreign key (created_by) references shared.users (id) on delete set null,
  constraint fk_avatars_users_updated_by foreign key (updated_by) references shared.users (id) on delete set null,
  constraint fk_avatars_users_deleted_by foreign key (deleted_by) references shared.users (id) on delete set null,
  constraint chk_avatars_gender check (gender in ('male', 'female', 'unisex')),
  constraint chk_avatars_measurements check (jsonb_typeof(measurements) = 'object'),
  constraint chk_avatars_version check (version >= 1)
);

comment on column avatar.avatars.measurements is 'height, weight, chest, waist, hips, shoulderWidth in centimetres and kilograms';

-- One name for each user among the avatars that are not deleted, and one default.
create unique index uidx_avatars_user_id_name on avatar.avatars (user_id, name) where deleted_at is null;
create unique index uidx_avatars_user_id_is_default on avatar.avatars (user_id) where is_default and deleted_at is null;
-- The cascade from users looks for deleted avatars too, which the partial ones above do not hold.
create index idx_avatars_user_id_created_at on avatar.avatars (user_id, created_at desc);
create index idx_avatars_measurements on avatar.avatars using gin (measurements jsonb_path_ops);
create index idx_avatars_created_by on avatar.avatars (created_by);
create index idx_avatars_updated_by on avatar.avatars (updated_by);
create index idx_avatars_deleted_by on avatar.avatars (deleted_by);

create trigger trg_avatars_bump_version before update on avatar.avatars
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_avatars_set_updated_at before update on avatar.avatars
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();

-- migrate:down
drop table avatar.avatars;
