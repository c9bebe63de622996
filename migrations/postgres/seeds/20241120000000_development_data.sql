-- env: development, test, staging
-- migrate:up
-- Never in production: only a database that says what it is takes these rows. The declaration sets app.environment there;
-- a database without it counts as production.
do $$
begin
  if coalesce(nullif(current_setting('app.environment', true), ''), 'production') not in ('development', 'test', 'staging') then
    raise exception 'seeds are refused: app.environment of this database is not development, test or staging'
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end;
$$;

-- From the leaves to the root, and by id: whatever else is in the database stays.
delete from design.designs where id in (
  'd0000000-0000-4000-8000-000000000001', 'd0000000-0000-4000-8000-000000000002');
delete from catalog.catalog_items where id in (
  'c0000000-0000-4000-8000-000000000001', 'c0000000-0000-4000-8000-000000000002',
  'c0000000-0000-4000-8000-000000000003', 'c0000000-0000-4000-8000-000000000004');
delete from avatar.avatars where id in (
  'a0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-000000000002');

-- Users are not deleted: rows of others may hang on them, and the cascade would take those along.
-- No usable password stands in a repository: the hash is of random bytes, so these accounts begin with a reset.
insert into shared.users (id, email, password_hash, first_name, last_name, role, is_email_verified) values
  ('10000000-0000-4000-8000-000000000001', 'admin@fashionwallet.com',
    public.crypt(encode(public.gen_random_bytes(24), 'hex'), public.gen_salt('bf', 10)), 'Admin', 'User', 'admin', true),
  ('10000000-0000-4000-8000-000000000002', 'user@fashionwallet.com',
    public.crypt(encode(public.gen_random_bytes(24), 'hex'), public.gen_salt('bf', 10)), 'Regular', 'User', 'user', true),
  ('10000000-0000-4000-8000-000000000003', 'designer@fashionwallet.com',
    public.crypt(encode(public.gen_random_bytes(24), 'hex'), public.gen_salt('bf', 10)), 'Designer', 'User', 'premium', true)
on conflict do nothing;

insert into avatar.avatars (id, user_id, name, gender, measurements, is_default, created_by) values
  ('a0000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000002', 'Everyday', 'female',
    '{"height": 168, "weight": 61, "chest": 88, "waist": 70, "hips": 96, "shoulderWidth": 39}', true,
    '10000000-0000-4000-8000-000000000002'),
  ('a0000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000003', 'Studio', 'unisex',
    '{"height": 180, "weight": 74, "chest": 98, "waist": 82, "hips": 97, "shoulderWidth": 45}', true,
    '10000000-0000-4000-8000-000000000003');

insert into catalog.catalog_items (id, name, type, category, category_path, properties, price, created_by) values
  ('c0000000-0000-4000-8000-000000000001', 'Basic T-Shirt', 'silhouette', 'top', 'top.silhouette',
    '{"tags": ["basic", "t-shirt"]}', 0, '10000000-0000-4000-8000-000000000001'),
  ('c0000000-0000-4000-8000-000000000002', 'Cotton Fabric', 'fabric', 'other', 'other.fabric',
    '{"color": "white", "texture": "soft", "material": "cotton", "tags": ["natural"]}', 2.50,
    '10000000-0000-4000-8000-000000000001'),
  ('c0000000-0000-4000-8000-000000000003', 'Stripes Pattern', 'pattern', 'other', 'other.pattern',
    '{"color": "navy", "patternType": "stripes", "tags": ["classic"]}', 1.50, '10000000-0000-4000-8000-000000000001'),
  ('c0000000-0000-4000-8000-000000000004', 'Slim Jeans', 'silhouette', 'bottom', 'bottom.silhouette',
    '{"material": "denim", "tags": ["jeans"]}', 4.00, '10000000-0000-4000-8000-000000000001');

insert into design.designs (id, user_id, avatar_id, name, status, tags, metadata, created_by) values
  ('d0000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000002',
    'a0000000-0000-4000-8000-000000000001', 'Summer draft', 'draft', '{summer,casual}',
    '{"description": "a first try in white"}', '10000000-0000-4000-8000-000000000002'),
  ('d0000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000003',
    'a0000000-0000-4000-8000-000000000002', 'Striped classic', 'published', '{classic,stripes}',
    '{"description": "navy stripes on cotton"}', '10000000-0000-4000-8000-000000000003');
