-- migrate:up
-- The key comes from a Secret: the application sends it at the start of a transaction, as a parameter,
--   select set_config('app.encryption_key', $1, true)
-- never as SET app.encryption_key = '…', whose text pg_stat_statements and the server's log keep as it is. It is never stored.
create function shared.encryption_key() returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  encryption_key text := nullif(current_setting('app.encryption_key', true), '');
begin
  if encryption_key is null or length(encryption_key) < 32 then
    raise exception 'app.encryption_key is not set or shorter than 32 characters'
      using errcode = 'object_not_in_prerequisite_state',
        hint = 'send it in the same transaction: select set_config(''app.encryption_key'', $1, true)';
  end if;
  return encryption_key;
end;
$$;

-- No compression: the length of the result would tell something of the content.
create function shared.encrypt_personal_data(plain text) returns bytea
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if plain is null then
    return null;
  end if;
  return public.pgp_sym_encrypt(plain, shared.encryption_key(), 'cipher-algo=aes256, compress-algo=0');
end;
$$;

create function shared.decrypt_personal_data(sealed bytea) returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if sealed is null then
    return null;
  end if;
  return public.pgp_sym_decrypt(sealed, shared.encryption_key());
end;
$$;

-- Two encryptions of one text differ, so nothing can be found by the ciphertext: a keyed digest is what equality is asked of.
create function shared.digest_personal_data(plain text) returns bytea
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if plain is null then
    return null;
  end if;
  return public.hmac(lower(plain), shared.encryption_key(), 'sha256');
end;
$$;

revoke execute on function shared.encryption_key() from public;
revoke execute on function shared.encrypt_personal_data(text) from public;
revoke execute on function shared.decrypt_personal_data(bytea) from public;
revoke execute on function shared.digest_personal_data(text) from public;

-- shared.users.email stays plain: the server has to compare it, keep it unique and check its form at login, which it
-- cannot do with a ciphertext. Every other address, telephone and payment reference is here, sealed.
create table shared.user_personal_data (
  id uuid not null default public.uuid_generate_v4(),
  user_id uuid not null,
  contact_email_encrypted bytea,
  contact_email_digest bytea,
  phone_encrypted bytea,
  phone_digest bytea,
  payment_encrypted bytea,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_user_personal_data primary key (id),
  constraint unq_user_personal_data_user_id unique (user_id),
  constraint fk_user_personal_data_users_user_id foreign key (user_id) references shared.users (id) on delete cascade,
  constraint chk_user_personal_data_phone_digest check ((phone_encrypted is null) = (phone_digest is null)),
  constraint chk_user_personal_data_contact_email_digest
    check ((contact_email_encrypted is null) = (contact_email_digest is null))
);

create index idx_user_personal_data_phone_digest on shared.user_personal_data using hash (phone_digest);
create index idx_user_personal_data_contact_email_digest on shared.user_personal_data using hash (contact_email_digest);

create trigger trg_user_personal_data_bump_version before update on shared.user_personal_data
  for each row when (old.* is distinct from new.*) execute function shared.bump_version();
create trigger trg_user_personal_data_set_updated_at before update on shared.user_personal_data
  for each row when (old.* is distinct from new.*) execute function shared.set_updated_at();

-- The measurements of a body are sealed as well. A migration has no key and can convert nothing: the avatar service
-- writes the sealed column from now on, and an app_admin calls avatar.encrypt_measurements until it returns 0.
alter table avatar.avatars add column measurements_encrypted bytea;

-- NOT VALID: no scan under the lock. A later migration looks at the old rows.
alter table avatar.avatars add constraint chk_avatars_measurements_encrypted
  check (measurements_encrypted is null or measurements = '{}') not valid;

create function avatar.encrypt_measurements(batch integer) returns integer
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  changed integer;
begin
  update avatar.avatars a
    set measurements_encrypted = shared.encrypt_personal_data(a.measurements::text), measurements = '{}'
    from (
      select id from avatar.avatars where measurements <> '{}' order by id limit batch for update skip locked
    ) as plain
    where a.id = plain.id;
  get diagnostics changed = row_count;
  return changed;
end;
$$;

revoke execute on function avatar.encrypt_measurements(integer) from public;

-- migrate:down
-- Going back would destroy what is sealed, and nobody but the holder of the key can open it: refused while there is any.
do $$
begin
  if exists (select from avatar.avatars where measurements_encrypted is not null)
    or exists (select from shared.user_personal_data) then
    raise exception 'encrypted personal data would be lost: decrypt or delete it first'
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end;
$$;

drop function avatar.encrypt_measurements(integer);
alter table avatar.avatars drop column measurements_encrypted;
drop table shared.user_personal_data;
drop function shared.digest_personal_data(text);
drop function shared.decrypt_personal_data(bytea);
drop function shared.encrypt_personal_data(text);
drop function shared.encryption_key();
