-- migrate:up
-- That something was changed is recorded, and by whom; what it was before or is now is not, not even sealed.
create trigger trg_user_personal_data_audit_insert after insert on shared.user_personal_data
  referencing new table as __new_rows for each statement execute function audit.record_change(
    'contact_email_encrypted', 'contact_email_digest', 'phone_encrypted', 'phone_digest', 'payment_encrypted');
create trigger trg_user_personal_data_audit_update after update on shared.user_personal_data
  referencing old table as __old_rows new table as __new_rows for each statement execute function audit.record_change(
    'contact_email_encrypted', 'contact_email_digest', 'phone_encrypted', 'phone_digest', 'payment_encrypted');
create trigger trg_user_personal_data_audit_delete after delete on shared.user_personal_data
  referencing old table as __old_rows for each statement execute function audit.record_change(
    'contact_email_encrypted', 'contact_email_digest', 'phone_encrypted', 'phone_digest', 'payment_encrypted');
create trigger trg_user_personal_data_audit_truncate after truncate on shared.user_personal_data
  for each statement execute function audit.record_change();

-- The avatars' triggers leave the new sealed column out too. A trigger's arguments are changed by making it again, which
-- OR REPLACE does in one step: no change goes unrecorded.
create or replace trigger trg_avatars_audit_insert after insert on avatar.avatars
  referencing new table as __new_rows
  for each statement execute function audit.record_change('measurements', 'measurements_encrypted');
create or replace trigger trg_avatars_audit_update after update on avatar.avatars
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change('measurements', 'measurements_encrypted');
create or replace trigger trg_avatars_audit_delete after delete on avatar.avatars
  referencing old table as __old_rows
  for each statement execute function audit.record_change('measurements', 'measurements_encrypted');

-- Last, as it reads the whole table: under a lock that lets everybody read and write.
alter table avatar.avatars validate constraint chk_avatars_measurements_encrypted;

-- migrate:down
alter table avatar.avatars drop constraint chk_avatars_measurements_encrypted;
alter table avatar.avatars add constraint chk_avatars_measurements_encrypted
  check (measurements_encrypted is null or measurements = '{}') not valid;

create or replace trigger trg_avatars_audit_delete after delete on avatar.avatars
  referencing old table as __old_rows for each statement execute function audit.record_change('measurements');
create or replace trigger trg_avatars_audit_update after update on avatar.avatars
  referencing old table as __old_rows new table as __new_rows
  for each statement execute function audit.record_change('measurements');
create or replace trigger trg_avatars_audit_insert after insert on avatar.avatars
  referencing new table as __new_rows for each statement execute function audit.record_change('measurements');

drop trigger trg_user_personal_data_audit_truncate on shared.user_personal_data;
drop trigger trg_user_personal_data_audit_delete on shared.user_personal_data;
drop trigger trg_user_personal_data_audit_update on shared.user_personal_data;
drop trigger trg_user_personal_data_audit_insert on shared.user_personal_data;
