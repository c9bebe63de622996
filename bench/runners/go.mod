module runners

go 1.26

require (
	github.com/amacneil/dbmate/v2 v2.27.0
	github.com/golang-migrate/migrate/v4 v4.19.1
)

require github.com/lib/pq v1.10.9 // indirect
