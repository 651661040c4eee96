CREATE TABLE `accounts` (
	`id` text PRIMARY KEY NOT NULL,
	`type` text NOT NULL,
	`username` text NOT NULL,
	`name` text NOT NULL,
	`limits` text DEFAULT '{}' NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `accounts_username_unique` ON `accounts` (`username`);--> statement-breakpoint
CREATE TABLE `hardware` (
	`sku` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`cpus` real NOT NULL,
	`memory_bytes` integer NOT NULL,
	`gpus` integer NOT NULL,
	`seen_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `models` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`title` text,
	`description` text,
	`readme` text,
	`tags` text DEFAULT '[]' NOT NULL,
	`visibility` text NOT NULL,
	`state` text NOT NULL,
	`state_reason` text,
	`weights_license` text,
	`latest_version_id` text,
	`latest_version_at` integer,
	`example_prediction_id` text,
	`example_key` text,
	`default_example` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`)
);
--> statement-breakpoint
CREATE INDEX `models_by_created` ON `models` (`created_at`);--> statement-breakpoint
CREATE INDEX `models_by_version_at` ON `models` (`latest_version_at`);--> statement-breakpoint
CREATE TABLE `tokens` (
	`hash` text PRIMARY KEY NOT NULL,
	`account_id` text NOT NULL,
	`scopes` text NOT NULL,
	`last_four` text NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer,
	`revoked_at` integer,
	FOREIGN KEY (`account_id`) REFERENCES `accounts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `tokens_by_account` ON `tokens` (`account_id`);--> statement-breakpoint
CREATE TABLE `versions` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`id` text NOT NULL,
	`openapi_schema` text NOT NULL,
	`cog_version` text NOT NULL,
	`slots` integer NOT NULL,
	`memory_bytes` integer NOT NULL,
	`hardware` text NOT NULL,
	`idempotent` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`, `id`)
);
--> statement-breakpoint
CREATE INDEX `versions_by_id` ON `versions` (`id`);