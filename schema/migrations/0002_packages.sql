CREATE TABLE `builds` (
	`id` text PRIMARY KEY NOT NULL,
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`manifest` text NOT NULL,
	`status` text NOT NULL,
	`version_id` text,
	`error` text,
	`created_at` integer NOT NULL,
	`completed_at` integer
);
--> statement-breakpoint
CREATE INDEX `builds_by_model` ON `builds` (`owner`,`name`,`created_at`,`id`);--> statement-breakpoint
ALTER TABLE `models` ADD `is_stable` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `models` ADD `example_account_id` text;--> statement-breakpoint
ALTER TABLE `versions` ADD `package` text;--> statement-breakpoint
ALTER TABLE `versions` ADD `build_id` text;--> statement-breakpoint
ALTER TABLE `versions` ADD `gpus` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `versions` ADD `egress` integer DEFAULT false NOT NULL;