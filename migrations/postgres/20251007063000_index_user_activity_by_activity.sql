-- migrate:up
-- A partitioned table takes no CONCURRENTLY. So: the index of the parent alone, which is not valid yet; one for each
-- partition, without blocking; then they are attached, and with the last one the parent's becomes valid.
create index idx_user_activity_activity_occurred_at on only analytics.user_activity (activity, occurred_at);

create index concurrently idx_user_activity_p0_activity_occurred_at on analytics.user_activity_p0 (activity, occurred_at);
create index concurrently idx_user_activity_p1_activity_occurred_at on analytics.user_activity_p1 (activity, occurred_at);
create index concurrently idx_user_activity_p2_activity_occurred_at on analytics.user_activity_p2 (activity, occurred_at);
create index concurrently idx_user_activity_p3_activity_occurred_at on analytics.user_activity_p3 (activity, occurred_at);
create index concurrently idx_user_activity_p4_activity_occurred_at on analytics.user_activity_p4 (activity, occurred_at);
create index concurrently idx_user_activity_p5_activity_occurred_at on analytics.user_activity_p5 (activity, occurred_at);
create index concurrently idx_user_activity_p6_activity_occurred_at on analytics.user_activity_p6 (activity, occurred_at);
create index concurrently idx_user_activity_p7_activity_occurred_at on analytics.user_activity_p7 (activity, occurred_at);

alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p0_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p1_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p2_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p3_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p4_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p5_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p6_activity_occurred_at;
alter index analytics.idx_user_activity_activity_occurred_at attach partition analytics.idx_user_activity_p7_activity_occurred_at;

-- migrate:down
-- The parent's index takes those of the partitions with it.
drop index analytics.idx_user_activity_activity_occurred_at;
