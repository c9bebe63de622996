-- migrate:up
create table design.designs (
  id uuid not null default public.uuid_generate_v4(),
  user_id uuid not null,
  avatar_id uuid,
  name varchar(255) not null,
  status design.design_status not null default 'draft',
  tags text[] not null default '{}',
  metadata jsonb not null default '{}',
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  created_by uuid,
  updated_by uuid,
  deleted_by uuid,
  constraint pk_designs primary key (id),
  constraint fk_designs_users_user_id foreign key (user_id) references shared.users (id) on delete cascade,
  constraint fk_designs_avatars_avatar_id foreign key (avatar_id) references avatar.avatars (id) on delete set null,
  constraint fk_designs_users_created_by foreign key (created_by) references shared.users (id) on delete set null,
  constraint fk_designs_users_updated_by foreign key (updated_by) references shared.users (id) on delete set null,
  constraint fk_designs_users_deleted_by foreign key (deleted_by) references shared.users (id) on delete set null,
  constraint chk_designs_name check (char_length(name) >= 1),
  constraint chk_designs_version check (version >= 1)
);

create index idx_designs_user_id_status_created_at on design.designs (user_id, status, created_at desc);
create index idx_designs_status_created_at on design.designs (created_at desc) where status = 'published' and deleted_at is null;
create index idx_designs_avatar_id on design.designs (avatar_id);
create index idx_designs_metadata on design.designs using gin (metadata);
create index idx_designs_tags on design.designs using gin (tags);
create index idx_designs_created_by on design.designs (created_by);
create index idx_designs_updated_by on design.designs (updated_by);
create index idx_designs_deleted_by on design.designs (deleted_by);

create trigger trg_designs_bump_version before update on design.designs
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_designs_set_updated_at before update on design.designs
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();

-- migrate:down
drop table design.designs;
